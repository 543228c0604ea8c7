"""Vision networks, and reading inside them."""
