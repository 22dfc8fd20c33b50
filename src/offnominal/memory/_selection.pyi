GROUP: int
NEVER: int
MOST_IN_QUESTION: int

def nearest(addresses: tuple[int, ...], step: float, sizes: tuple[int, int, int, int, int], threads: int, /) -> None: ...
