"""What people look at: collected tables, figures, the page, the summary, and output of the command line.

A report directory can be deleted at any time: `build.build` makes it again from the store.
"""
