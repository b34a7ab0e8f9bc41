"""The page at `/`: static files without a build, and their routes."""
