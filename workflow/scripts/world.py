"""Read the silhouettes of the animal world, split them into parts, and keep them in one file."""

import sys

from icm_study.animals.silhouettes import load_silhouettes

if __name__ == "__main__":
    load_silhouettes().save(sys.argv[1])
