"""The paper's tables counted again, and how it counted its FLOPs."""
