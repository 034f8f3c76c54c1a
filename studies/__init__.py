"""How we know that the plugin is right and fast; in a checkout only, no wheel carries it."""
