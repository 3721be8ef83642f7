class Current: ...


def current():
    raise NotImplementedError  # placeholder until the real module lands
