"""One HTML page that shows finished runs side by side."""
