"""The top floor: command line, configuration, the two runtimes, the web page."""
