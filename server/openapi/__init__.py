"""The OpenAPI document, and what each endpoint answers."""
