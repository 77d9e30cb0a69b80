"""Ways through several stages: the whole way in one call, models judged, reports compared, files explained."""
