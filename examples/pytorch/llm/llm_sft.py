import sys

from swift.cli import main

sys.exit(main(["sft", *sys.argv[1:]]))
