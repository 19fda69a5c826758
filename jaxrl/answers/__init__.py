"""What the text of an answer says: tokens, a grammar of statements about roles, tables."""
