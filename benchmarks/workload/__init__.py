"""What a load test asks for: conversations of text, images and videos, drawn or from files."""
