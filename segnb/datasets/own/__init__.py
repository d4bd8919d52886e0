"""Folders of your own: what they say about themselves, and how their masks are read.

``description`` reads ``dataset.toml``; ``patterns`` and ``scan`` find the files and divide them
into splits; ``annotations`` turns masks, COCO or LabelMe JSON into class ids; ``dataset`` is one
split of such a folder. ``sources`` looks for images and labels, ``describe`` writes the file, and
``check`` says what will go wrong.
"""
