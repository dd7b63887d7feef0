"""Development tools of the repository; nothing here ships."""
