"""What an annotating run adds: photographs with what people said of them → neurons with what can be said of them."""
