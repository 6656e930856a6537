"""Building blocks of the options: how an option is declared, its types, and the errors of a refused stack file."""
