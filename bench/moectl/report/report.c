// SPDX-License-Identifier: MIT
/* report.md: what was run, on what, what came out and what it means. */
#include "report/report.h"
#include "report/report_file.h"
#include "report/report_parts.h"
#include "base/files.h"
#include "report/pictures.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool exists(const results *all, const char *name) {
  char *path = format_text("%s/%s.png", all->folder, name);
  const bool found = path && access(path, R_OK) == 0;
  free(path);
  return found;
}

void report_caption(const results *all, const picture_plan *picture, FILE *file) {
  const experiment *plan = all->experiment;
  char label[LABEL_SIZE] = "";
  if (picture->kind == PICTURE_UTILIZATION) {
    fprintf(file, "Assignments each expert was given (light) and kept (dark), point %zu",
            picture->point);
    grid_line_label(plan, plan->num_axes, picture->point, label, sizeof label);
    if (*label) fputs(": ", file);
    report_text(file, label);
  } else if (picture->kind == PICTURE_LOADS) {
    fputs(
        "How loaded each expert is over the sweep, before capacity; near white is the even share, "
        "grey no such expert",
        file);
  } else if (picture->kind == PICTURE_DEVICES) {
    fputs("How loaded each device is: rows that its experts computed, over the mean; near white is "
          "the mean, grey no such member",
          file);
  } else if (picture->kind == PICTURE_STAGES) {
    fprintf(file, "Which stage of the %s takes the time, at each point; at the right what all take",
            experiment_measured(plan));
  } else {
    const picture_quantity *quantity = picture_quantity_of(all, picture->kind);
    fprintf(file, "%c%s against %s", toupper((unsigned char)quantity->title[0]),
            quantity->title + 1, plan->axes[picture->axis].param);
    picture_view view;
    if (pictures_view(all, picture->kind, picture->axis, &view))
      pictures_held(all, picture->axis, &view, label, sizeof label);
    if (*label) fputs(" with ", file);
    report_text(file, label);
    fprintf(file, "; %s", quantity->reading);
  }
}

static void show_picture(const results *all, const picture_plan *picture, FILE *file) {
  fputs("![", file);
  report_caption(all, picture, file);
  fprintf(file, "](%s.png)\n\n*", picture->name);
  report_caption(all, picture, file);
  fprintf(file, ".* Script and data: `%s.gp`, `%s.dat`.\n\n", picture->name, picture->name);
}

/* Those that were drawn; gnuplot may be missing. Of single points, where there are several,
 * there is a link. */
static bool show_pictures(const results *all, FILE *file) {
  picture_list pictures;
  if (!pictures_plan(all, &pictures)) return false;
  const bool linked = all->experiment->num_points > 1;
  size_t shown = 0, links = 0;
  for (size_t i = 0; i < pictures.count; i++) {
    const bool link = linked && pictures.list[i].kind == PICTURE_UTILIZATION;
    if (link || !exists(all, pictures.list[i].name)) continue;
    if (shown++ == 0) fputs("## Pictures\n\n", file);
    show_picture(all, &pictures.list[i], file);
  }
  for (size_t i = 0; linked && i < pictures.count; i++) {
    const picture_plan *picture = &pictures.list[i];
    if (picture->kind != PICTURE_UTILIZATION || !exists(all, picture->name)) continue;
    if (shown + links == 0) fputs("## Pictures\n\n", file);
    fputs(links++ == 0 ? "Assignments each expert was given and kept, of point" : ",", file);
    fprintf(file, " [%zu](%s.png)", picture->point, picture->name);
  }
  if (links > 0) fputs(".\n\n", file);
  pictures_release(&pictures);
  return true;
}

bool report_write(const results *all, char **error) {
  report_file file;
  report_file_open(&file);
  if (!file.stream) return report_file_put(&file, all, "report.md", false, error);
  fputs("# ", file.stream);
  report_text(file.stream, all->experiment->name);
  fputs("\n\n", file.stream);
  report_summary(all, file.stream);
  fputs("The same with charts and values to hover over, and longer: `report.html`.\n\n",
        file.stream);
  report_parameters(all, false, file.stream);
  report_device(all, file.stream);
  report_variants(all, file.stream);
  report_findings(all, file.stream);
  report_points(all, file.stream);
  report_peaks(all, file.stream);
  report_stages(all, file.stream);
  report_routing(all, file.stream);
  report_devices(all, file.stream);
  report_prediction(all, file.stream);
  report_offload(all, file.stream);
  report_memory(all, file.stream);
  report_verification(all, false, file.stream);
  report_failures(all, file.stream);
  const bool ok = show_pictures(all, file.stream);
  report_repeat(all, file.stream);
  return report_file_put(&file, all, "report.md", ok, error);
}
