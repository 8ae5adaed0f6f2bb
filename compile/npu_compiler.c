/* Compile an OpenVINO model for an NPU that is not here, and export the blob.
 *
 *     npu_compiler PLATFORM PROBE.xml MODEL.xml OUT.blob KEY VALUE [KEY VALUE ...]
 *
 * Runs beside the DLLs of OpenVINO's Windows wheel, which carries the NPU compiler that the Linux wheel lacks. PROBE is
 * any small model: a language model's blob does not say what it requires of the device, a plain model's does, and both
 * come from the same compiler. Prints one "name value" line for each fact that the package records. Ends with 0, or
 * with 1 and the reason on stderr.
 */
#include <openvino/c/openvino.h>
#include <stdio.h>
#include <stdlib.h>

#define SLOTS 40 /* arguments that the call below spells out; those beyond `count` are not read */

static void require(ov_status_e status, const char *step) {
    if (status != OK) {
        const char *reason = ov_get_last_err_msg();
        fprintf(stderr, "%s: %s: %s\n", step, ov_get_error_info(status), reason ? reason : "no reason given");
        exit(1);
    }
}

int main(int argc, char **argv) {
    const int count = argc - 5;
    const char *p[SLOTS] = {0};
    if (count < 2 || count % 2 || count > SLOTS) {
        fprintf(stderr, "usage: npu_compiler PLATFORM PROBE.xml MODEL.xml OUT.blob KEY VALUE ..., at most %d pairs\n",
                SLOTS / 2);
        return 1;
    }
    for (int i = 0; i < count; i++)
        p[i] = argv[5 + i];

    ov_version_t version;
    ov_core_t *core = NULL;
    ov_compiled_model_t *probe = NULL, *compiled = NULL;
    char *value = NULL;
    require(ov_get_openvino_version(&version), "version");
    printf("openvino %s\n", version.buildNumber);
    require(ov_core_create(&core), "core");
    require(ov_core_compile_model_from_file(core, argv[2], "NPU", 4, &probe, "NPU_COMPILER_TYPE", "PLUGIN",
                                            "NPU_PLATFORM", argv[1]),
            "compile the probe");
    require(ov_core_get_property(core, "NPU", "NPU_COMPILER_VERSION", &value), "compiler version");
    printf("compiler %s\n", value);
    require(ov_compiled_model_get_property(probe, "RUNTIME_REQUIREMENTS", &value), "runtime requirements");
    printf("requirements %s\n", value);
    fflush(stdout);
    require(ov_core_compile_model_from_file(
                core, argv[3], "NPU", (size_t)count, &compiled, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8],
                p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18], p[19], p[20], p[21], p[22], p[23],
                p[24], p[25], p[26], p[27], p[28], p[29], p[30], p[31], p[32], p[33], p[34], p[35], p[36], p[37], p[38],
                p[39]),
            "compile the model");
    require(ov_compiled_model_export_model(compiled, argv[4]), "export");
    return 0;
}
