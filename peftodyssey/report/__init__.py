"""Floor 5: what people look at: collected tables, charts, the page and the summary."""
