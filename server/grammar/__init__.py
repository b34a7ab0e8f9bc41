"""What an answer must look like, and the guard that keeps hostile grammars from the engine."""
