"""Serve the console: pages on which people see jobs and scores, and act where one is needed.

Every page is rendered here and works without JavaScript; all of its state is in its URL. `app` has
the routes, `access` decides who asks, `request_guard` what is refused before that, and each module
of `pages` makes one kind of page.
"""
