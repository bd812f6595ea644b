"""What each ``compsec`` subcommand does: arguments in, printed lines and an exit code out."""
