"""Results that a change of the code's layout must not change: training runs, reports, public names, help texts.

`values/` contains what was found last. `python -m tests.golden.update` finds it anew, writes it, and lists what differs.
"""
