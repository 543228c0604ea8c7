"""Where subjects come from: one file a collection of networks, each with its own preprocessing."""
