"""Labels → pages that people look at: a static site, and pictures of single neurons."""
