"""What an evaluation adds to labels and captioners: what they are held against, and the tables that come of it."""
