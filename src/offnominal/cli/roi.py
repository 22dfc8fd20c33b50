"""The command `roi`."""

from __future__ import annotations

from pathlib import Path

import click

from offnominal.cli.console import Console, emit, say
from offnominal.cli.options import data_argument, json_option, path_option
from offnominal.errors import InputError, SettingsError


@click.command()
@data_argument
@click.option("--suggest", is_flag=True, help="Suggest a region: the part, without the background.")
@path_option("--roi", "Show this region: an image whose white pixels count, or polygons in JSON.")
@path_option("--ignore", "Show the image without this region, in the same formats.")
@path_option("--out", "PNG file of the mask to write; a preview is written beside it.", required=True)
@json_option
def roi(data: str, suggest: bool, roi: Path | None, ignore: Path | None, out: Path, as_json: bool) -> None:
    """Suggest a region of interest, or show one."""
    from offnominal.config import settings_from
    from offnominal.datasets import normal_images
    from offnominal.fitting.region_suggestion import suggest_region
    from offnominal.images import read_header, with_region
    from offnominal.outputs.regions import write_region

    if suggest == (roi is not None or ignore is not None):
        raise SettingsError("roi: give either --suggest, or the region to show with --roi or --ignore")
    if out.suffix.lower() != ".png":
        raise SettingsError(f"--out {out}: a mask is a PNG file; give a name that ends in .png")
    images = [item.path for item in normal_images(data)]
    if suggest:
        with Console() as console:
            region = suggest_region(images, console)
    else:
        given = with_region(settings_from(roi=roi, ignore=ignore)).region
        assert given is not None
        region = given
        if not region.suits(size := read_header(images[0]).size):
            raise InputError(f"{images[0]}: {region.unsuited(size)}")
    preview = write_region(region, images[0], out)
    if as_json:
        emit({"mask": str(out), "preview": str(preview), "share": region.share})
    else:
        say(f"{out}: {region.share:.0%} of the image; look at {preview}, edit the mask if needed, and fit with --roi {out}")
