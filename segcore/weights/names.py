"""What each published layer is called here: one table per method, their name and ours.

A name stands for all that begins with it; the first line that fits counts. ``*`` is any one part
of a name. ``{trunk}`` and ``{neck}`` are where the model keeps its timm network and its JPU. What
follows the part that a line names is the same in both, but for ``LAYERS``.
"""

LAYERS = {"conv": "0", "bn": "1", "depthwise_conv": "0", "pointwise_conv": "1"}
"""mmcv's names within its blocks, which are numbers in ``segcore.layers``."""

_AUXILIARY = """
auxiliary_head.convs.0    auxiliary.0
auxiliary_head.conv_seg   auxiliary.1.1
"""

_FCN = """
decode_head.convs.*       convs.*
decode_head.conv_cat      join
decode_head.conv_seg      classify.1
"""

_PSPNET = """
decode_head.psp_modules.*.1   pyramid.project.*
decode_head.bottleneck        head.0
decode_head.conv_seg          head.1.1
"""

_OCRNET = """
decode_head.0.convs.0                               regions.0
decode_head.0.conv_seg                              regions.1.1
decode_head.1.bottleneck                            pixels
decode_head.1.object_context_block.query_project    attend.query
decode_head.1.object_context_block.key_project      attend.key
decode_head.1.object_context_block.value_project    attend.value
decode_head.1.object_context_block.out_project      attend.project
decode_head.1.object_context_block.bottleneck       join
decode_head.1.conv_seg                              classify.1
"""

_DEEPLABV3 = """
decode_head.image_pool.1    pooling.project
decode_head.aspp_modules.*  pyramid.branches.*
decode_head.bottleneck      project
decode_head.conv_seg        classify.1
"""

_DECODER = """
decode_head.c1_bottleneck     reduce
decode_head.sep_bottleneck.*  decode.*
"""

_CONTEXT_FRAME = """
decode_head.convs.0   head.enter
decode_head.convs.1   head.leave
decode_head.conv_cat  head.join
decode_head.conv_seg  head.classify.1
"""

_NON_LOCAL = """
decode_head.nl_block.theta.conv  head.context.query
decode_head.nl_block.phi.conv    head.context.key
decode_head.nl_block.g.conv      head.context.value
decode_head.nl_block.conv_out    head.context.project
"""

_GCNET = """
decode_head.gc_block.conv_mask         head.context.attention
decode_head.gc_block.channel_mul_conv  head.context.transforms.multiply
decode_head.gc_block.channel_add_conv  head.context.transforms.add
"""

_CCNET = """
decode_head.cca.query_conv   head.context.query
decode_head.cca.key_conv     head.context.key
decode_head.cca.value_conv   head.context.value
decode_head.cca.gamma.scale  head.context.gain
"""

_DANET = """
decode_head.pam_in_conv        position.0
decode_head.pam.query_project  position.1.query
decode_head.pam.key_project    position.1.key
decode_head.pam.value_project  position.1.value
decode_head.pam.gamma.scale    position.1.gain
decode_head.pam_out_conv       position.2
decode_head.pam_conv_seg       classify_position.1
decode_head.cam_in_conv        channel.0
decode_head.cam.gamma.scale    channel.1.gain
decode_head.cam_out_conv       channel.2
decode_head.cam_conv_seg       classify_channel.1
decode_head.conv_seg           classify.1
"""

_ANN = """
decode_head.fusion.stages.0.query_project     across.query
decode_head.fusion.stages.0.key_project       across.key
decode_head.fusion.stages.0.value_project     across.value
decode_head.fusion.stages.0.out_project       across.project
decode_head.fusion.bottleneck                 fuse
decode_head.bottleneck                        reduce.1
decode_head.context.stages.0.query_project    within.query
decode_head.context.stages.0.key_project      within.query
decode_head.context.stages.0.value_project    within.value
decode_head.context.stages.0.out_project      within.project
decode_head.context.bottleneck                join
decode_head.conv_seg                          classify.1
"""

_ISANET = """
decode_head.in_conv                          enter
decode_head.global_relation.query_project    context.attentions.0.long_range.query
decode_head.global_relation.key_project      context.attentions.0.long_range.key
decode_head.global_relation.value_project    context.attentions.0.long_range.value
decode_head.global_relation.output_project   context.attentions.0.long_range.project
decode_head.local_relation.query_project     context.attentions.0.short_range.query
decode_head.local_relation.key_project       context.attentions.0.short_range.key
decode_head.local_relation.value_project     context.attentions.0.short_range.value
decode_head.local_relation.output_project    context.attentions.0.short_range.project
decode_head.out_conv                         context.join
decode_head.conv_seg                         classify.1
"""

_ENCNET = """
decode_head.bottleneck                       enter
decode_head.lateral_convs.*                  lateral.reduce.*
decode_head.fusion                           lateral.join
decode_head.enc_module.encoding_project      encode.project
decode_head.enc_module.encoding.0.codewords  encode.codes
decode_head.enc_module.encoding.0.scale      encode.smoothing
decode_head.enc_module.encoding.1            encode.norm
decode_head.enc_module.fc.0                  gate
decode_head.se_layer                         presence
decode_head.conv_seg                         classify.1
"""

_BISENET = """
backbone.spatial_path.layer1                       spatial.0
backbone.spatial_path.layer2                       spatial.1
backbone.spatial_path.layer3                       spatial.2
backbone.spatial_path.layer4                       spatial.3
backbone.context_path.gap_conv.1                   context.pooling.project
backbone.context_path.arm32.conv_layer             context.refine_last.conv
backbone.context_path.arm32.atten_conv_layer.1     context.refine_last.gate
backbone.context_path.arm16.conv_layer             context.refine_middle.conv
backbone.context_path.arm16.atten_conv_layer.1     context.refine_middle.gate
backbone.context_path.conv_head32                  context.smooth_last
backbone.context_path.conv_head16                  context.smooth_middle
backbone.ffm.conv1                                 fuse.join
backbone.ffm.conv_atten.0                          fuse.gate
decode_head.convs.0                                head.0
decode_head.conv_seg                               head.1.1
auxiliary_head.*.convs.0                           auxiliary.*.0
auxiliary_head.*.conv_seg                          auxiliary.*.1.1
"""

_TORCHVISION_AUXILIARY = """
aux_classifier.0    auxiliary.0.0
aux_classifier.1    auxiliary.0.1
aux_classifier.4    auxiliary.1.1
"""

_TORCHVISION_FCN = """
classifier.0.weight convs.0.0.weight
classifier.1        convs.0.1
classifier.4        classify.1
"""

_TORCHVISION_DEEPLABV3 = """
classifier.0.convs.4.1  pooling.project.0
classifier.0.convs.4.2  pooling.project.1
classifier.0.convs.*    pyramid.branches.*
classifier.0.project    project
classifier.1            convs.0.0
classifier.2            convs.0.1
classifier.4            classify.1
"""

_INVERTED_RESIDUALS = "".join(
    f"""
backbone.layer{stage}.*.conv.0.conv   {{trunk}}.blocks.{stage - 1}.*.conv_pw
backbone.layer{stage}.*.conv.0.bn     {{trunk}}.blocks.{stage - 1}.*.bn1
backbone.layer{stage}.*.conv.1.conv   {{trunk}}.blocks.{stage - 1}.*.conv_dw
backbone.layer{stage}.*.conv.1.bn     {{trunk}}.blocks.{stage - 1}.*.bn2
backbone.layer{stage}.*.conv.2.conv   {{trunk}}.blocks.{stage - 1}.*.conv_pwl
backbone.layer{stage}.*.conv.2.bn     {{trunk}}.blocks.{stage - 1}.*.bn3
"""
    for stage in range(2, 8)
)

_TRUNK = f"""
backbone.layer1.0.conv.0.conv         {{trunk}}.blocks.0.0.conv_dw
backbone.layer1.0.conv.0.bn           {{trunk}}.blocks.0.0.bn1
backbone.layer1.0.conv.1.conv         {{trunk}}.blocks.0.0.conv_pw
backbone.layer1.0.conv.1.bn           {{trunk}}.blocks.0.0.bn2
{_INVERTED_RESIDUALS}
backbone.conv1.conv                   {{trunk}}.conv_stem
backbone.conv1.bn                     {{trunk}}.bn1
backbone.stem.7                       {{trunk}}.bn1
backbone.stem                         {{trunk}}.conv1
backbone                              {{trunk}}
"""
"""MobileNetV2, then the deep stem of ResNet; the rest of ResNet and all of HRNet are alike."""

_NECK = """
neck.conv_layers.*.0      {neck}.enter.*
neck.dilation_layers.*.0  {neck}.branches.*
"""

_PLAIN = _AUXILIARY + _NECK + _TRUNK

MMSEGMENTATION = {
    "fcn": _FCN + _PLAIN,
    "pspnet": _PSPNET + _PLAIN,
    "deeplabv3": _DEEPLABV3 + _PLAIN,
    "deeplabv3plus": _DEEPLABV3 + _DECODER + _PLAIN,
    "non_local": _CONTEXT_FRAME + _NON_LOCAL + _PLAIN,
    "gcnet": _CONTEXT_FRAME + _GCNET + _PLAIN,
    "ann": _ANN + _PLAIN,
    "ocrnet": _OCRNET + _NECK + _TRUNK,
    "isanet": _ISANET + _PLAIN,
    "danet": _DANET + _PLAIN,
    "ccnet": _CONTEXT_FRAME + _CCNET + _PLAIN,
    "encnet": _ENCNET + _PLAIN,
    "bisenet": _BISENET + _TRUNK.replace("backbone", "backbone.context_path.backbone"),
}
"""Of versions 0.x and 1.x."""

TORCHVISION = {
    "fcn": _TORCHVISION_FCN + _TORCHVISION_AUXILIARY + _TRUNK,
    "deeplabv3": _TORCHVISION_DEEPLABV3 + _TORCHVISION_AUXILIARY + _TRUNK,
}
"""Of ``torchvision.models.segmentation`` on ResNet."""

TORCHVISION_OPTIONS = {
    "fcn": "num_convs=1, concat_input=False",
    "deeplabv3": "width=256, projection_kernel=1, num_convs=1",
}
"""The options of ``build_model`` that torchvision's form of a method has."""
