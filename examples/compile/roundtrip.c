/* Compresses a file with the zstd library that it was linked with, decompresses it again, and compares. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zstd.h"

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "roundtrip: %s: %s\n", what, why);
    exit(1);
}

int main(int argc, char **argv)
{
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file) fail("usage", "roundtrip FILE");
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file), bound = ZSTD_compressBound(size);
    rewind(file);
    char *original = malloc(size + 1), *small = malloc(bound), *back = malloc(size + 1);
    if (!original || !small || !back || fread(original, 1, size, file) != size) fail(argv[1], "cannot be read");

    size_t compressed = ZSTD_compress(small, bound, original, size, 9);
    if (ZSTD_isError(compressed)) fail("compress", ZSTD_getErrorName(compressed));
    size_t restored = ZSTD_decompress(back, size + 1, small, compressed);
    if (ZSTD_isError(restored)) fail("decompress", ZSTD_getErrorName(restored));
    if (restored != size || memcmp(original, back, size)) fail(argv[1], "came back different");
    printf("zstd %s: %zu bytes became %zu, and the same %zu again\n", ZSTD_versionString(), size, compressed, restored);
    return 0;
}
