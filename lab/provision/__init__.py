"""Sets a Debian machine up to build ftvmm and to run its suite: the program behind ``make setup``.

Standard library only, because it runs before anything else is installed. It checks every prerequisite before it changes
anything, and then carries out steps that each remember what they were made from: a finished step is recognised and
skipped, an interrupted one is done again.
"""
