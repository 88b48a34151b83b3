"""One oracle a file: a pure function from evidence to a judgement, so that a stored run can be judged again."""
