/* Every symbol that NVIDIA's Python bindings of TensorRT import, each doing nothing. Compiled once per library name, it
 * lets the real bindings be imported on a machine without TensorRT, a GPU or a driver: their classes, enumerations and
 * signatures are then there to look at. Nothing can be run with it: every factory returns null. */

#define IMPORT_ONLY(name) \
    void *name(void) { return 0; }

IMPORT_ONLY(createInferBuilder_INTERNAL)
IMPORT_ONLY(createInferRefitter_INTERNAL)
IMPORT_ONLY(createInferRuntime_INTERNAL)
IMPORT_ONLY(createNvOnnxParser_INTERNAL)
IMPORT_ONLY(createNvOnnxParserRefitter_INTERNAL)
IMPORT_ONLY(getBuilderPluginRegistry)
IMPORT_ONLY(getNvOnnxParserVersion)
IMPORT_ONLY(getPluginRegistry)
IMPORT_ONLY(initLibNvInferPlugins)
