"""A folder as a tool exported it -> clean content: layouts, names of files, json, odd entries."""
