#!/usr/bin/env python3
"""Writes the collage's task file: make_dag.py FILE [SHA], SHA being the version of the code that blurs.

`sha` is what à la mode's users put there by convention: change it when a task's program changes, and its hash changes too.
"""

import sys

from a_la_mode.task import Dag

IMAGE = "collage"


def collage(blur_sha):
    dag = Dag({"image": IMAGE})

    def task(name, command, sha="1qe34", needs=()):
        made = dag.task(name, {"image": IMAGE, "command": command, "sha": sha})
        for needed in needs:
            made.add_dep(needed)
        return made

    photos = task("download_images", "python dl_images.py")
    blur = task("blur", "python transform_images.py blur", blur_sha, needs=[photos])
    edges = task("edge_enhance", "python transform_images.py edge_enhance", needs=[photos])
    task("collage", "python collage.py", needs=[blur, edges])
    return dag


if __name__ == "__main__":
    file, *sha = sys.argv[1:]
    collage(*sha or ["6f09d"]).save(file)
