"""What a test leaves behind for people to look at: numbers, tables, pictures, a page."""
