"""From media bytes to model input: decoding, resizing, patches, content keys, prompt layout."""
