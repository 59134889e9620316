r"""Cholesky factors of covariances of short range, in blocks of image rows.

Where pixels more than :math:`r` rows apart are independent, the covariance of an image is block
tridiagonal in blocks of :math:`r` rows, and its Cholesky factor :math:`L` is block bidiagonal, with
:math:`D_k` on the diagonal and :math:`E_k` to the left of it:

.. math::

    E_k = C_{k,k-1} D_{k-1}^{-\top}, \qquad D_k D_k^\top = C_{k,k} - E_k E_k^\top .

With :math:`G_k = D_k^{-1} E_k`, whitening :math:`z = L^{-1} r` is

.. math:: z_k = D_k^{-1} r_k - G_k z_{k-1} ,

one matrix product a block; :math:`L^{-\top}` runs backwards, and :math:`L` needs no recursion.
Images of :math:`n \times n` pixels cost :math:`O(r^2 n^4)` to factor, once, and :math:`O(r n^3)` to
whiten. All images of a batch take each step together.
"""

import torch

__all__ = ["BlockCholesky", "OwnFactors", "SharedFactors"]


class BlockCholesky:
    r"""Cholesky factors of the noise of P images.

    Parameters
    ----------
    inverse : Tensor, shape (P, K, b, b)
        :math:`D_k^{-1}` of the K blocks of b pixels.
    coupling : Tensor, shape (P, K, b, b)
        :math:`G_k`; not used for the first block.
    """

    def __init__(self, inverse, coupling):
        self.inverse, self.coupling = inverse, coupling

    @classmethod
    def of_images(cls, autocorrelation, valid, dtype) -> "BlockCholesky":
        """Factor the covariance of the valid pixels, with the identity at all others.

        Parameters
        ----------
        autocorrelation : Tensor, shape (P, ky, kx)
            Of odd sizes, positive definite on the images. The factors are computed in its
            precision.
        valid : Tensor of bool, shape (P, ny, nx)
        dtype : torch.dtype
            Precision in which the factors are kept.

        Returns
        -------
        factors : BlockCholesky
        """
        ny, nx = valid.shape[1:]
        rows = min(max(autocorrelation.shape[-2] // 2, 1), ny)
        # Rows that fill the last block are such as carry no information.
        valid = torch.nn.functional.pad(valid, (0, 0, 0, -ny % rows))
        valid = valid.reshape(len(valid), -1, rows * nx).to(autocorrelation.dtype)
        within = _covariance(autocorrelation, rows, nx, 0)
        across = _covariance(autocorrelation, rows, nx, rows)
        eye = torch.eye(rows * nx, dtype=within.dtype, device=within.device)
        inverses, couplings = [], []
        inverse = left = torch.zeros_like(within)
        for k in range(valid.shape[1]):
            here = valid[:, k]
            if k:
                left = (across * here[:, :, None] * valid[:, k - 1, None, :]) @ inverse.mT
            block = within * here[:, :, None] * here[:, None, :]
            block.diagonal(dim1=1, dim2=2).add_(1 - here)
            diagonal = torch.linalg.cholesky(block - left @ left.mT)
            inverse = torch.linalg.solve_triangular(diagonal, eye, upper=False)
            inverses.append(inverse.to(dtype))
            couplings.append((inverse @ left).to(dtype))
        return cls(torch.stack(inverses, dim=1), torch.stack(couplings, dim=1))

    @staticmethod
    def size(autocorrelation, shape) -> int:
        """Bytes of the factors of one image."""
        ny, nx = shape
        rows = min(max(autocorrelation.shape[-2] // 2, 1), ny)
        return 2 * -(-ny // rows) * (rows * nx) ** 2 * autocorrelation.itemsize

    def solve(self, r):
        """L^-1 r, for r of shape (P, m, n_pixels)."""
        terms = (self._blocks(r) @ self.inverse.mT).unbind(1)
        z = [terms[0]]
        for k, term in enumerate(terms[1:], start=1):
            z.append(term - z[-1] @ self.coupling[:, k].mT)
        return self._pixels(z, r)

    def solve_adjoint(self, z):
        """L^-T z, for z of shape (P, m, n_pixels)."""
        terms = self._blocks(z).unbind(1)
        w = [terms[-1]]
        for k in range(len(terms) - 1, 0, -1):
            w.append(terms[k - 1] - w[-1] @ self.coupling[:, k])
        return self._pixels((torch.stack(w[::-1], dim=1) @ self.inverse).unbind(1), z)

    def multiply(self, z):
        """L z, for z of shape (P, m, n_pixels)."""
        blocks = self._blocks(z)
        before = torch.cat([torch.zeros_like(blocks[:, :1]), blocks[:, :-1]], dim=1)
        terms = (blocks + before @ self.coupling.mT).mT
        r = torch.linalg.solve_triangular(self.inverse, terms, upper=False)
        return self._pixels(r.mT.unbind(1), z)

    def _blocks(self, image):
        """(P, m, n_pixels) to (P, K, m, b), zeros where the last block has no pixels."""
        n_blocks, size = self.inverse.shape[1:3]
        padding = n_blocks * size - image.shape[-1]
        image = torch.nn.functional.pad(image, (0, padding))
        return image.unflatten(-1, (n_blocks, size)).transpose(1, 2)

    @staticmethod
    def _pixels(blocks, like):
        return torch.cat(list(blocks), dim=-1)[..., : like.shape[-1]]

    def __len__(self):
        return len(self.inverse)

    def map(self, function) -> "BlockCholesky":
        """The factors with ``function`` applied to their tensors."""
        return BlockCholesky(function(self.inverse), function(self.coupling))


def _covariance(autocorrelation, rows, nx, offset):
    """Covariance of a block of rows with that which begins ``offset`` rows before it."""
    ky, kx = autocorrelation.shape[-2:]
    device = autocorrelation.device
    row, column = (torch.arange(n, device=device) for n in (rows, nx))
    dy = (row[:, None] + offset - row[None, :])[:, None, :, None] + ky // 2
    dx = (column[:, None] - column[None, :])[None, :, None, :] + kx // 2
    near = (dy >= 0) & (dy < ky) & (dx >= 0) & (dx < kx)
    values = autocorrelation[:, dy.clamp(0, ky - 1), dx.clamp(0, kx - 1)]
    return (values * near).reshape(-1, rows * nx, rows * nx)


class SharedFactors:
    r"""Factors of many images, of which several may be equal.

    Vectors that share a factor go through it together. Factors that one vector has, two, up to
    four, up to eight, ... are batches, filled up with copies: no loop runs over images, no
    factor is kept twice, and at most half of the work is in vain.

    Parameters
    ----------
    factors : BlockCholesky
        P factors.
    rows : LongTensor, shape (M,)
        Which factor belongs to each image.
    """

    def __init__(self, factors, rows):
        used, rows, counts = torch.unique(rows, return_inverse=True, return_counts=True)
        counts, order = counts.sort(stable=True)
        chosen = used[order]
        if not torch.equal(chosen, torch.arange(len(factors), device=chosen.device)):
            factors = factors.map(lambda tensor: tensor[chosen])
        self.factors, self.rows = factors, order.argsort()[rows]
        self._set_batches(counts)

    def _set_batches(self, counts):
        by_factor = self.rows.argsort(stable=True)
        first = counts.cumsum(0) - counts
        widths = 2 ** torch.ceil(torch.log2(counts.double())).long()
        self._batches, places, begin, offset = [], torch.empty_like(self.rows), 0, 0
        for width, n in zip(*torch.unique(widths, return_counts=True), strict=True):
            end, width = begin + int(n), int(width)
            slot = torch.arange(width, device=counts.device)
            filled = slot < counts[begin:end, None]
            images = by_factor[first[begin:end, None] + slot * filled]
            position = offset + torch.arange(images.numel(), device=counts.device)
            places[images[filled]] = position.view_as(images)[filled]
            self._batches.append((slice(begin, end), images))
            begin, offset = end, offset + images.numel()
        self._places = places

    def solve(self, r):
        """L^-1 r, for r of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.solve, r)

    def solve_adjoint(self, z):
        """L^-T z, for z of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.solve_adjoint, z)

    def multiply(self, z):
        """L z, for z of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.multiply, z)

    def _apply(self, operation, vectors):
        results = [
            operation(self.factors.map(lambda tensor, part=part: tensor[part]), vectors[images])
            for part, images in self._batches
        ]
        return torch.cat([result.flatten(0, 1) for result in results])[self._places]

    def __getitem__(self, rows) -> "SharedFactors":
        """The factors of some images, given by their numbers."""
        return SharedFactors(self.factors, self.rows[rows])

    def to(self, device, dtype) -> "SharedFactors":
        """Copy the factors to another device or floating-point type."""
        factors = self.factors.map(lambda tensor: tensor.to(device=device, dtype=dtype))
        return SharedFactors(factors, self.rows.to(device))

    def of(self, images) -> "OwnFactors":
        """The factors of some images, without a look at which of them share one."""
        return OwnFactors(self, images)


class OwnFactors:
    r"""Factors of some images, each its own, or one for all: no step depends on which they are.

    So a GPU need not wait for the host to find out, at the price of the memory.

    Parameters
    ----------
    shared : SharedFactors
        Factors that the images have.
    rows : LongTensor, shape (M,)
        Which of its images they are.
    """

    def __init__(self, shared, rows):
        self._shared, self.rows, self._factors = shared, rows, shared.factors
        if len(self._factors) > 1:
            numbers = shared.rows[rows]
            self._factors = self._factors.map(lambda tensor: tensor[numbers])

    def solve(self, r):
        """L^-1 r, for r of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.solve, r)

    def solve_adjoint(self, z):
        """L^-T z, for z of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.solve_adjoint, z)

    def multiply(self, z):
        """L z, for z of shape (M, n_pixels)."""
        return self._apply(BlockCholesky.multiply, z)

    def _apply(self, operation, vectors):
        if len(self._factors) == 1:
            return operation(self._factors, vectors[None])[0]
        return operation(self._factors, vectors[:, None])[:, 0]

    def __getitem__(self, rows) -> SharedFactors:
        """The factors of some of the images, given by their numbers."""
        return self._shared[self.rows[rows]]

    def of(self, images) -> "OwnFactors":
        """The same of some of the images."""
        return OwnFactors(self._shared, self.rows[images])

    def to(self, device, dtype) -> "OwnFactors":
        """Copy the factors to another device or floating-point type."""
        return OwnFactors(self._shared.to(device, dtype), self.rows.to(device))
