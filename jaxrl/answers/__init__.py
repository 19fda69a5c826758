"""What the text of an answer says: roles (a grammar of statements, tables), numbers, expressions."""
