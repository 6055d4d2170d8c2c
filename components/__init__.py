"""One folder a subject: its component, its pure files, its checks, the programs it ships."""
