GROUP: int
NEVER: int
MOST_IN_QUESTION: int
MOST_AT_ONCE: int

def nearest(addresses: tuple[int, ...], step: float, sizes: tuple[int, int, int, int, int], threads: int, /) -> None: ...
def nearest_upsampled(addresses: tuple[int, ...], sizes: tuple[int, int, int, int], threads: int, /) -> None: ...
