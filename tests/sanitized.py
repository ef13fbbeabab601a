"""A pytest plug-in (`-p sanitized`): C++ is compiled with AddressSanitizer and UBSan, under a cache name of its own."""

from swift import native

SANITIZERS = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1"),
    "-fno-sanitize=alignment",  # rows of a tensor may begin anywhere; vectors are loaded by unaligned instructions
)
native.FLAGS = (*(flag for flag in native.FLAGS if flag != "-O3"), "-O1", *SANITIZERS)
