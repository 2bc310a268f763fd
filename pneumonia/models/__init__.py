"""Model families: plain networks, each behind one thin subclass of the base classifier."""
