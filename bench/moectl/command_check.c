/* moectl check: validates an experiment without a device. */
#include "moectl.h"
#include "workload.h"
#include <stdio.h>
#include <stdlib.h>

int command_check(const options *options) {
  experiment experiment;
  char *error = NULL;
  if (!experiment_load(options->file, options->overrides, options->num_overrides, &experiment,
                       &error)) {
    fprintf(stderr, "%s\n", error ? error : "no memory");
    free(error);
    return EXIT_USAGE;
  }
  if (experiment.warnings) fprintf(stderr, "%s\n", experiment.warnings);
  recording recording = {0};
  if (experiment.input_file &&
      !(recording_load(experiment.input_file, experiment.input_tensor, &recording, &error) &&
        recording_serves(&experiment, &recording, &error))) {
    complain("%s", error ? error : "no memory");
    free(error);
    recording_destroy(&recording);
    experiment_destroy(&experiment);
    return EXIT_USAGE;
  }
  recording_destroy(&recording);
  printf("%s: ok, experiment '%s' with %zu point%s\n", options->file, experiment.name,
         experiment.num_points, experiment.num_points == 1 ? "" : "s");
  experiment_destroy(&experiment);
  return EXIT_ALL_OK;
}
