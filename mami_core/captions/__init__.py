"""Features → captions: the MAMI captioner, the language model, and the search over both."""
