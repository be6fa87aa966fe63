"""Which torch functions are of which kind, by their names; see `conserving` for what becomes of each kind."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# linear in the activations, whatever else they are given: where numbers stand, and of which type they are
PLACING = _names("""
    view reshape flatten unflatten ravel squeeze unsqueeze expand expand_as repeat tile repeat_interleave broadcast_to
    broadcast_tensors permute transpose t T mT mH H adjoint swapaxes swapdims movedim moveaxis contiguous clone to
    float double half bfloat16 type type_as cuda cpu view_as reshape_as narrow select index_select gather take
    take_along_dim getitem chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind unfold fold roll flip
    fliplr flipud rot90 diagonal diag diag_embed tril triu as_strided masked_select pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle atleast_1d atleast_2d atleast_3d requires_grad identity real positive neg
    negative pad retain_grad
    """)
CASTS = _names("to type type_as float double half bfloat16")  # of these, those that may change the type
# sums of their entries, each by a constant weight
WEIGHING = _names("""
    sum mean nansum cumsum diff avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d interpolate upsample upsample_nearest upsample_bilinear dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_alpha_dropout feature_dropout trace
    """)
# one entry of several, or 0: the true derivative is the rule, and conserves
CHOOSING = _names("""
    max min amax amin maximum minimum topk sort kthvalue median max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d
    """)
# several operands side by side, constants among them
ADDING = _names("""
    add radd iadd sub subtract rsub cat concat concatenate stack hstack vstack dstack column_stack row_stack block_diag
    where fill masked_fill masked_scatter index_add index_copy index_put index_fill scatter scatter_add setitem copy
    """)
# linear in each of their operands
MULTIPLYING = _names("mul rmul multiply matmul rmatmul mm bmm mv dot vdot inner outer ger kron einsum tensordot")
DIVIDING = _names("div divide true_divide truediv rtruediv rdiv")
LAYERS = _names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")  # weights and a bias
SUMMED_PRODUCTS = _names("addmm addmv addbmm baddbmm addr addcmul")  # a first operand, plus a product of two
# functions of each number for itself
ELEMENTWISE = _names("""
    gelu silu mish tanh tanhshrink erf elu selu celu hardswish hardtanh relu relu6 leaky_relu threshold softsign
    softshrink hardshrink sigmoid hardsigmoid softplus abs absolute square pow clamp clip clamp_min clamp_max
    """)
SCALES = _names("sqrt rsqrt reciprocal var std var_mean std_mean norm vector_norm exp")
