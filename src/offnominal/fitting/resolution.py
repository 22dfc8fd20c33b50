"""Does the network see the smallest defect? What it needs, and what that costs."""

from __future__ import annotations

import math

from offnominal.config import Settings
from offnominal.errors import SettingsError
from offnominal.gates import parse_limit
from offnominal.observer import Plan

#: Network pixels that a defect needs in each direction: a patch. `benchmarks/region_sizes.py` shows which squares are found.
NEEDED = 8
#: Largest image size to recommend without tiles.
LARGEST = 1024


def resolution_note(settings: Settings, plan: Plan) -> str | None:
    """What the setting `smallest_defect` needs; None without it.

    Raises
    ------
    SettingsError
        The defect is in mm, and the size of a pixel is not known.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> from offnominal.observer import MemberPlan
    >>> member = MemberPlan(name="fast", patches=1024, dimensions=152, bank=1000, spacing=32.0, enlarged=0.25)
    >>> plan = Plan(images=1, members=(member,), bytes=0, on_disk=False)
    >>> resolution_note(settings_from(smallest_defect="20px"), plan)
    'a defect of 20px has 5 of the 8 network pixels that it needs; use --image-size 410, at about 2.6 times the time'
    >>> resolution_note(settings_from(smallest_defect="40px"), plan)
    'a defect of 40px has 10 network pixels; 8 are enough'
    """
    if settings.smallest_defect is None:
        return None
    limit = parse_limit(settings.smallest_defect, 1)
    pixels = limit.value
    if limit.unit == "mm":
        if settings.mm_per_pixel is None:
            raise SettingsError("smallest_defect is in mm; give mm_per_pixel too, or the defect in pixels such as 10px")
        pixels /= max(settings.mm_per_pixel)
    finest = min(plan.members, key=lambda member: member.spacing)
    seen = NEEDED * pixels / finest.spacing
    defect = f"a defect of {settings.smallest_defect}"
    if seen >= NEEDED:
        return f"{defect} has {seen:.0f} network pixels; {NEEDED} are enough"
    factor = NEEDED / seen
    lacking = f"{defect} has {seen:.0f} of the {NEEDED} network pixels that it needs"
    if finest.enlarged * factor > 1 and pixels < NEEDED:
        return f"{lacking}, and only {pixels:.0f} pixels in the image; use a lens or a camera with more pixels for each mm"
    size = math.ceil(min(settings.image_size) * factor)
    if size <= LARGEST:
        return f"{lacking}; use --image-size {size}, at about {factor**2:.1f} times the time"
    density = "" if settings.mm_per_pixel is None or limit.unit != "mm" else f" --pixels-per-mm {NEEDED / limit.value:.3g}"
    cost = factor**2 if density else 1 / finest.enlarged**2
    return f"{lacking}; use --tile 512{density}, at about {cost:.0f} times the time"
