"""Texture tiles with every pair of horizontal and vertical reductions ("ripmaps"), so that a wall seen at a grazing angle
neither flickers nor blurs: the texel is chosen by how many metres one pixel covers along each direction."""

import numpy as np


class RipAtlas:
    """T square tiles of S x S texels with C uint8 channels, C in {1, 8}, at all (log2 S + 1)² reductions.

    Row 0 of a tile is its lowest edge. Texels of all tiles and levels lie in one array, so that a look-up is one gather.
    """

    def __init__(self, tiles: np.ndarray):
        """`tiles`: float32 (T, S, S, C) in 0..1, S a power of two."""
        count, size, _, channels = tiles.shape
        self.size_log2 = int(size).bit_length() - 1
        levels = self.size_log2 + 1
        self.offsets = np.zeros((levels, levels), np.int64)  # [level_u, level_v] -> first texel
        parts, start = [], 0
        rows = tiles
        for level_v in range(levels):
            reduced = rows
            for level_u in range(levels):
                self.offsets[level_u, level_v] = start
                parts.append((reduced * 255 + 0.5).astype(np.uint8).reshape(-1, channels))
                start += parts[-1].shape[0]
                if level_u < levels - 1:
                    reduced = (reduced[:, :, 0::2] + reduced[:, :, 1::2]) / 2
            if level_v < levels - 1:
                rows = (rows[:, 0::2] + rows[:, 1::2]) / 2
        self.texels = np.concatenate(parts).view(np.uint8 if channels == 1 else np.uint64)[:, 0]
        self.channels, self.count = channels, count

    def level(self, log2_texels: np.ndarray) -> np.ndarray:
        """Reduction level for a pixel that covers 2**log2_texels texels, int64 of the same shape."""
        return np.clip(log2_texels + 0.5, 0, self.size_log2).astype(np.int64)

    def fetch(self, index: np.ndarray) -> np.ndarray:
        """Texels by flat index (N,) -> float32 (C, N) in 0..1."""
        texels = self.texels[index].view(np.uint8).reshape(-1, self.channels).T
        return np.multiply(texels, np.float32(1 / 255), dtype=np.float32)

    def sample(
        self, tile: np.ndarray | int, u: np.ndarray, v: np.ndarray, level_u: np.ndarray, level_v: np.ndarray
    ) -> np.ndarray:
        """Nearest texel at the given levels; u, v in [0, 1) from the left and from below. Returns float32 (C, N)."""
        width_log2, height_log2 = self.size_log2 - level_u, self.size_log2 - level_v
        column = (u * (1 << width_log2)).astype(np.int64)
        row = (v * (1 << height_log2)).astype(np.int64)
        return self.fetch(self.offsets[level_u, level_v] + (((tile << height_log2) + row) << width_log2) + column)


def fractal_noise(size: int, seed: int, roughness: float = 1.0, cutoff: float = 0.0) -> np.ndarray:
    """Tileable noise of mean 0 and deviation 1, float32 (size, size); larger `roughness` is smoother.

    Frequencies below `cutoff` cycles per tile are left out, so that repetitions do not show.
    """
    white = np.random.default_rng(seed).standard_normal((size, size))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size) * size, np.fft.fftfreq(size) * size))
    frequency[0, 0] = np.inf
    weight = np.where(frequency >= cutoff, frequency**-roughness, 0)
    noise = np.fft.ifft2(np.fft.fft2(white) * weight).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)
