"""How long the cohort page of 1,000 slides takes to open and to sort in headless Chromium.

``python -m tests.support.time_cohort_page [SLIDES]`` prints one JSON object; medians of five.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from histodiff.workflows.tile.cohort_page import cohort_page
from tests.support.browser import browser
from tests.support.cohorts import fabricated_cohort, thumbnails_of

OPENED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
SORTED = """const [key, done] = arguments, start = performance.now();
document.querySelector(`[data-sort=${key}]`).click();
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));"""
COLUMNS = ("num_patches", "mpp_x", "patient_id", "status", "slide_id")


def main():
    """Prints milliseconds to the load event, and from a click on a heading to the next frame."""
    num_slides = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    facts, rows, _ = fabricated_cohort(num_slides)
    thumbnails = thumbnails_of(rows)
    started = time.perf_counter()
    html = cohort_page(facts, thumbnails)
    rendered = time.perf_counter() - started
    opened, painted, ordered = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "cohort.html"
        page.write_text(html)
        for _ in range(5):
            with browser() as window:
                window.open(page.as_uri())
                opened.append(window.run(OPENED))
                painted.append(window.run(PAINTED))
                ordered += [window.wait(SORTED, column) for column in COLUMNS]
    sys.stdout.write(
        json.dumps(
            {
                "slides": num_slides,
                "page_bytes": len(html.encode()),
                "thumbnail_bytes_mean": round(sum(map(len, thumbnails.values())) / len(thumbnails)),
                "render_s": round(rendered, 2),
                "open_ms_median": round(median(opened)),
                "open_ms_worst": round(max(opened)),
                "first_paint_ms_worst": round(max(painted)),
                "sort_ms_median": round(median(ordered)),
                "sort_ms_worst": round(max(ordered)),
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
