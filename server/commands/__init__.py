"""Commands beside the server: a chat, the files of the vision cache, a check of the machine."""
