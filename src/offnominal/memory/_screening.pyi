PANEL: int
NEVER: int
STEPS: int
MOST_IN_QUESTION: int

def nearest(
    addresses: tuple[int, ...],
    scale_and_error: tuple[float, float],
    sizes: tuple[int, int, int, int, int, int],
    bits: int,
    threads: int,
    /,
) -> None: ...
def multiplies(bits: int, /) -> bool: ...
