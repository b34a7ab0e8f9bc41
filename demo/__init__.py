"""The embedded default model and the factory of small checkpoints that the tests use."""
