"""What operators do, as tables: FLOP an element, which compute nothing, which read or write a part of an argument.

Conventions, which the documentation repeats: a fused multiply-add is two FLOP; the bias of a product is not counted
(as in torch's own counter); only arithmetic on floating-point numbers counts; a function such as exp, log, tanh, erf,
sqrt or a power is one FLOP, and so is a comparison inside a maximum or a clamp; copying, casting, selecting, filling
and drawing random numbers is none. Fused operators count what their written-out form would.
"""

from __future__ import annotations

import torch


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: FLOP for each element of the (first) output, where it is not 1. Backward forms are derived from the formula's
#: derivative with the saved tensors at hand.
PER_OUTPUT: dict[str, float] = {
    "addcmul": 3,  # self + value·a·b
    "addcdiv": 3,
    "lerp": 3,  # a + w·(b - a)
    "gelu": 5,  # ½x(1 + erf(x/√2))
    "gelu_backward": 11,  # Φ(x) + xφ(x), times the gradient
    "silu": 2,
    "silu_backward": 6,  # σ(1 + x(1 - σ)), times the gradient
    "mish": 4,
    "mish_backward": 9,
    "softplus": 2,
    "softplus_backward": 3,
    "log_sigmoid_forward": 4,
    "log_sigmoid_backward": 4,
    "elu": 2,
    "elu_backward": 3,
    "celu": 3,
    **dict.fromkeys(
        _words("""
            _prelu_kernel rrelu_with_noise rrelu_with_noise_backward leaky_relu_backward hardtanh_backward
            hardsigmoid_backward hardshrink_backward softshrink_backward
        """),
        1,  # the product with a slope, or with 0 or 1 as threshold_backward's
    ),
    "_prelu_kernel_backward": 2,  # g·w and g·x: sums over the elements that share a weight are operators of their own
    "glu_backward": 2.5,  # of a pair: σ(b), g·σ, times a·(1 - σ)
    "soft_margin_loss_backward": 6,  # -y·z/(1 + z) times the gradient, z = exp(-y·x)
    "multi_margin_loss_backward": 2,
    "multilabel_margin_loss_backward": 2,
    "hardswish": 4,
    "hardswish_backward": 4,
    "hardsigmoid": 4,
    "glu": 2,
    "sigmoid_backward": 3,  # g·y·(1 - y)
    "tanh_backward": 3,  # g·(1 - y²)
    "logit": 3,
    "rsub": 1,
    "_softmax": 5,  # maximum, difference, exponential, sum, division
    "_log_softmax": 5,
    "_safe_softmax": 5,
    "_softmax_backward_data": 4,  # g·y, its sum, difference, product
    "_log_softmax_backward_data": 4,
    "native_dropout": 2,  # mask and scale
    "native_dropout_backward": 2,
    "_fused_dropout": 2,
    "mse_loss_backward": 3,
    "l1_loss_backward": 2,
    "smooth_l1_loss_backward": 4,
    "huber_loss_backward": 4,
    "binary_cross_entropy_backward": 5,
    "upsample_linear1d": 3,
    "upsample_bilinear2d": 7,  # four weights: four products, three sums
    "_upsample_bilinear2d_aa": 7,
    "upsample_trilinear3d": 15,
    "upsample_bicubic2d": 31,
    "grid_sampler_2d": 7,
    "grid_sampler_3d": 15,
    "_thnn_fused_lstm_cell": 17,  # per hidden unit: 4 gates of 2 sums and a function, c' and h' (5)
    "_thnn_fused_gru_cell": 17,
}

#: FLOP for each element of the first input, where it is not one per output element.
PER_INPUT: dict[str, float] = {
    **dict.fromkeys(
        _words("""
            sum nansum mean prod amax amin max min aminmax cumsum cumprod logcumsumexp cummax cummin trace
            adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d
            upsample_linear1d_backward max_pool2d_with_indices_backward max_pool3d_with_indices_backward
            embedding_dense_backward index_add scatter_add scatter_reduce _amp_foreach_non_finite_check_and_unscale
            _foreach_max segment_reduce logaddexp adaptive_max_pool2d_backward adaptive_max_pool3d_backward
            fractional_max_pool2d_backward fractional_max_pool3d_backward upsample_nearest1d_backward
            upsample_nearest2d_backward upsample_nearest3d_backward _upsample_nearest_exact1d_backward
            _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward
        """),
        1,
    ),
    "norm": 2,  # square, sum
    "linalg_vector_norm": 2,
    "_foreach_norm": 2,
    "dist": 3,
    "logsumexp": 4,
    "var": 4,  # mean; difference, square, sum
    "std": 4,
    "var_mean": 4,
    "std_mean": 4,
    "mse_loss": 3,  # difference, square, sum
    "l1_loss": 3,
    "smooth_l1_loss": 5,
    "huber_loss": 5,
    "binary_cross_entropy": 7,
    "binary_cross_entropy_with_logits": 8,
    "soft_margin_loss": 4,
    "multi_margin_loss": 3,
    "multilabel_margin_loss_forward": 3,
    "upsample_bilinear2d_backward": 8,
    "upsample_trilinear3d_backward": 16,
    "upsample_bicubic2d_backward": 32,
    "grid_sampler_2d_backward": 20,
    "_weight_norm_interface": 3,
    "_weight_norm_interface_backward": 5,
    "renorm": 3,
    "cross": 1,
}

#: Operators that move, choose, sort, allocate, draw or ask, and compute nothing that is counted.
FREE = frozenset(
    _words("""
        clone copy _to_copy contiguous cat stack _chunk_cat split_with_sizes_copy index index_select gather
        masked_select masked_fill masked_scatter where scatter index_put _index_put_impl _unsafe_index
        _unsafe_masked_index _unsafe_masked_index_put_accumulate index_copy index_fill take put select_scatter
        slice_scatter diagonal_scatter as_strided_scatter fill zero flip roll repeat repeat_interleave tile
        constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d reflection_pad2d_backward replication_pad2d_backward tril triu tril_indices triu_indices
        embedding _embedding_bag_forward_only one_hot nonzero unique_dim _unique2 unique_consecutive sort topk
        argsort argmax argmin kthvalue mode median nanmedian searchsorted bucketize histc bincount isin msort
        slice_backward select_backward unfold_backward im2col col2im unfold pixel_shuffle pixel_unshuffle
        channel_shuffle native_channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d
        _upsample_nearest_exact2d diag_embed diagonal_copy narrow_copy view_copy expand_copy permute_copy empty
        empty_like empty_strided new_empty new_empty_strided _empty_affine_quantized resize set resize_as
        _resize_output zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full
        _efficientzerotensor scalar_tensor lift lift_fresh lift_fresh_copy arange range linspace logspace eye rand
        randn randint randperm rand_like randn_like randint_like normal uniform bernoulli random exponential
        log_normal cauchy geometric multinomial poisson _sample_dirichlet _standard_gamma _local_scalar_dense item
        equal is_same_size is_nonzero isnan isinf isfinite _nnz indices _indices values _values coalesce _coalesce
        sparse_mask _sparse_mask_projection to_sparse _to_sparse to_dense _to_dense _sparse_coo_tensor_unsafe
        _sparse_coo_tensor_with_dims_and_tensors sparse_resize_and_clear _pin_memory is_pinned record_stream
        _reshape_copy _fused_sdp_choice _assert_async _assert_scalar _nested_tensor_from_mask
        _nested_tensor_from_mask_left_aligned _pack_padded_sequence _pack_padded_sequence_backward pad_sequence
        _has_compatible_shallow_copy_type sym_size _make_per_tensor_quantized_tensor int_repr q_scale q_zero_point
        max_unpool2d combinations view_as_complex view_as_real _conj_physical resolve_conj real imag complex
        _foreach_zero _foreach_copy _foreach_clone quantize_per_tensor quantize_per_channel dequantize
        choose_qparams_optimized _choose_qparams_per_tensor _convert_weight_to_int4pack _backward _dropout_state
        _cudnn_init_dropout_state _use_cudnn_ctc_loss _record_function_enter_new _record_function_exit
    """)
)

#: Of the written arguments of these, nothing is read first.
OVERWRITES = frozenset(
    _words("""
        copy fill zero normal uniform bernoulli random exponential log_normal cauchy geometric set _foreach_zero
        _foreach_copy resize resize_as
    """)
)

#: Operators that only provide memory.
ALLOCATES = frozenset(_words("empty empty_like empty_strided new_empty new_empty_strided resize set _resize_output"))

#: Operators that read (index) or write only the touched part of a large argument.
GATHERS = frozenset(
    _words("""
        embedding index index_select gather _unsafe_index take _embedding_bag nll_loss_forward nll_loss2d_forward
    """)
)
SCATTERS = frozenset(_words("index_put _index_put_impl index_add scatter scatter_add index_copy put"))

#: Arguments (by position) of which only the shape is used, and which are not read.
SHAPES_ONLY: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), (0,)),
    **dict.fromkeys(("randint_like", "new_zeros", "new_ones", "new_full"), (0,)),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), (1,)),
    **dict.fromkeys(("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward"), (1,)),
    **dict.fromkeys(("avg_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"), (1,)),
}

DTYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.qint8: "int8",
    torch.quint8: "uint8",
    **{
        getattr(torch, name): "fp8"
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
        if hasattr(torch, name)
    },
}
