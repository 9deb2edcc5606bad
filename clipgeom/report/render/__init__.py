"""How a report is drawn: page, tables, figures."""
